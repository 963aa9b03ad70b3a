//! Names of machines for those who know no workers: `MACHINE.ferry.internal`, asked over UDP.
//!
//! The answer is an address at which this worker's clients reach the machine wherever it is: its own, if it has one and is here,
//! else that of this worker, whose proxy takes its services there. It holds for a moment only, since machines move.
//!
//! Invariant: any bytes are answered in one datagram, which is not much longer than what was asked, or not at all.

use super::Inner;
use ferry_api::{MachineName, Network};
use ferry_crossing::directory::Known;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;

/// What the names of all machines end with.
const ZONE: [&[u8]; 2] = [b"ferry", b"internal"];
/// How long an answer holds, in seconds.
const HOLDS_S: u32 = 1;
/// Longest question that is looked at, in bytes: what a datagram had before there were longer ones.
const QUESTION_BYTES_MAX: usize = 512;
/// Pause after the system has refused to take a datagram.
const BREATH: Duration = Duration::from_millis(100);

/// Answers for ever.
pub(super) async fn serve(inner: Arc<Inner>, socket: UdpSocket) {
    // One byte more, by which a longer question is known.
    let mut question = [0; QUESTION_BYTES_MAX + 1];
    loop {
        let (length, from) = match socket.recv_from(&mut question).await {
            Ok(came) => came,
            Err(error) => {
                tracing::debug!(%error, "a question for a name cannot be taken");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        if let Some(answer) = answer(&question[..length], |name| inner.addresses(name)) {
            // Whoever does not get it asks again.
            let _: io::Result<usize> = socket.send_to(&answer, from).await;
        }
    }
}

/// The answer to a datagram, if it gets one. `addresses` are those of a machine; none if there is no such machine.
fn answer(datagram: &[u8], addresses: impl Fn(&MachineName) -> Option<Vec<IpAddr>>) -> Option<Vec<u8>> {
    if datagram.len() > QUESTION_BYTES_MAX {
        return None;
    }
    let asked = Message::from_vec(datagram).ok()?;
    if asked.metadata.message_type != MessageType::Query {
        // Two servers would answer each other for ever.
        return None;
    }
    let mut answer = Message::response(asked.metadata.id, asked.metadata.op_code);
    answer.metadata.recursion_desired = asked.metadata.recursion_desired;
    answer.metadata.response_code = match (asked.metadata.op_code, &asked.queries[..]) {
        (OpCode::Query, [query]) => {
            answer.add_query(query.clone());
            resolve(query, addresses, &mut answer)
        }
        (OpCode::Query, _) => ResponseCode::FormErr,
        (_, _) => ResponseCode::NotImp,
    };
    answer.to_vec().ok()
}

fn resolve(
    query: &Query,
    addresses: impl Fn(&MachineName) -> Option<Vec<IpAddr>>,
    answer: &mut Message,
) -> ResponseCode {
    let labels: Vec<Vec<u8>> = query.name().iter().map(<[u8]>::to_ascii_lowercase).collect();
    let Some((zone, names)) = labels.len().checked_sub(ZONE.len()).map(|at| (&labels[at..], &labels[..at]))
    else {
        return ResponseCode::Refused;
    };
    if zone != ZONE || query.query_class() != DNSClass::IN {
        return ResponseCode::Refused;
    }
    answer.metadata.authoritative = true;
    let machine = match names {
        // The zone itself has no address.
        [] => return ResponseCode::NoError,
        [name] => std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()),
        [_, _, ..] => None,
    };
    let Some(found) = machine.and_then(|name| addresses(&name)) else { return ResponseCode::NXDomain };
    for address in found {
        let data = match (address, query.query_type()) {
            (IpAddr::V4(ip), RecordType::A | RecordType::ANY) => RData::A(A(ip)),
            (IpAddr::V6(ip), RecordType::AAAA | RecordType::ANY) => RData::AAAA(AAAA(ip)),
            (_, _) => continue,
        };
        let name: Name = query.name().clone();
        answer.add_answer(Record::from_rdata(name, HOLDS_S, data));
    }
    ResponseCode::NoError
}

impl Inner {
    /// Where clients of this worker reach a machine; of several with one name it is the oldest, as with ports.
    fn addresses(&self, name: &MachineName) -> Option<Vec<IpAddr>> {
        let known = super::locked(&self.directory).all(self.now_ms());
        let Known { mapping, .. } = known.into_iter().find(|known| known.mapping.name == *name)?;
        let own = (mapping.network == Network::Own && mapping.owner == self.me)
            .then(|| IpAddr::V6(mapping.machine.address()));
        let ip = self.listen.ip();
        let here =
            if ip.is_unspecified() { self.host.trim_matches(['[', ']']).parse().ok() } else { Some(ip) };
        Some(own.into_iter().chain(here).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn web(name: &MachineName) -> Option<Vec<IpAddr>> {
        (name.as_str() == "web").then(|| vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()])
    }

    fn asked(name: &str, kind: RecordType) -> Message {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let answer = answer(&question.to_vec().unwrap(), web).unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!((answer.metadata.id, &answer.queries), (question.metadata.id, &question.queries));
        answer
    }

    #[test]
    fn a_machine_is_found_by_its_name_in_any_case_and_other_names_are_not() {
        let told = |name, kind| {
            let answer = asked(name, kind);
            (
                answer.metadata.response_code,
                answer.answers.iter().map(|a| a.data.to_string()).collect::<Vec<_>>(),
            )
        };
        let found = |ip: &str| (ResponseCode::NoError, vec![ip.to_owned()]);
        assert_eq!(told("web.ferry.internal.", RecordType::A), found("10.0.0.1"));
        assert_eq!(told("Web.FERRY.internal.", RecordType::AAAA), found("fd00::1"));
        assert_eq!(told("web.ferry.internal.", RecordType::MX), (ResponseCode::NoError, vec![]));
        for name in ["db.ferry.internal.", "a.web.ferry.internal."] {
            assert_eq!(told(name, RecordType::A), (ResponseCode::NXDomain, vec![]), "{name}");
        }
        for name in ["example.org.", "internal.", "."] {
            assert_eq!(told(name, RecordType::A), (ResponseCode::Refused, vec![]), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_shortly_or_not_at_all(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), is_query: bool) {
            if is_query && bytes.len() > 12 {
                // A header that gets past the first look: one question, nothing else.
                bytes[2..12].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            }
            if let Some(told) = answer(&bytes, web) {
                prop_assert!(bytes.len() <= QUESTION_BYTES_MAX && told.len() <= bytes.len() + 64);
                let told = Message::from_vec(&told).unwrap();
                prop_assert_eq!(told.metadata.message_type, MessageType::Response);
            }
        }
    }
}
