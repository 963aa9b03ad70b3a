//! The options about exports and contexts, and how option replies are written. proto.md, "Option types".

use super::handshake::{Handshake, Selected};
use crate::bytes::{Put, Reader, clipped};
use crate::command::HeaderStyle;
use crate::export::{Context, ExportInfo, ExportRefusal, Exports};
use crate::limits::{CONTEXTS_MAX, STRING_BYTES_MAX};
use crate::wire;

/// Why an option's payload is no good.
const MALFORMED: &str = "the option's data is malformed";

/// Appends one option reply.
fn reply(option: u32, reply: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.put_u64(wire::OPTION_REPLY_MAGIC);
    out.put_u32(option);
    out.put_u32(reply);
    out.put_u32(u32::try_from(payload.len()).expect("payloads are made of a few strings of limited length"));
    out.extend_from_slice(payload);
}

/// Appends the reply that an option succeeded.
pub(super) fn acknowledge(option: u32, out: &mut Vec<u8>) {
    reply(option, wire::REP_ACK, &[], out);
}

/// Appends the reply that an option failed, with a message for people.
pub(super) fn refuse(option: u32, error: u32, message: &str, out: &mut Vec<u8>) {
    reply(option, error, clipped(message).as_bytes(), out);
}

fn refuse_export(option: u32, refusal: &ExportRefusal, out: &mut Vec<u8>) {
    let error = match refusal {
        ExportRefusal::Unknown(_) => wire::REP_ERR_UNKNOWN,
        ExportRefusal::Policy(_) => wire::REP_ERR_POLICY,
        ExportRefusal::ShuttingDown(_) => wire::REP_ERR_SHUTDOWN,
    };
    refuse(option, error, refusal.message(), out);
}

/// The transmission flags of an export on a connection.
pub(super) fn transmission_flags(export: &ExportInfo, style: HeaderStyle) -> u16 {
    let writable = !export.read_only;
    let in_chunks = match style {
        HeaderStyle::Simple => false,
        HeaderStyle::Structured | HeaderStyle::Extended => true,
    };
    let flags = [
        (export.read_only, wire::FLAG_READ_ONLY),
        (export.can_flush, wire::FLAG_SEND_FLUSH),
        (export.can_fua, wire::FLAG_SEND_FUA),
        (writable && export.can_trim, wire::FLAG_SEND_TRIM),
        (writable && export.can_write_zeroes, wire::FLAG_SEND_WRITE_ZEROES),
        (writable && export.can_write_zeroes && export.can_fast_zero, wire::FLAG_SEND_FAST_ZERO),
        (in_chunks, wire::FLAG_SEND_DF),
        (export.can_multi_conn, wire::FLAG_CAN_MULTI_CONN),
        (export.can_cache, wire::FLAG_SEND_CACHE),
    ];
    flags.iter().filter(|(set, _)| *set).fold(wire::FLAG_HAS_FLAGS, |flags, (_, flag)| flags | flag)
}

/// Answers `NBD_OPT_LIST`.
pub(super) fn list(payload: &[u8], exports: &dyn Exports, out: &mut Vec<u8>) {
    let option = wire::OPT_LIST;
    if !payload.is_empty() {
        return refuse(option, wire::REP_ERR_INVALID, "this option takes no data", out);
    }
    for name in exports.list() {
        let name = clipped(&name);
        let mut entry = Vec::with_capacity(4 + name.len());
        put_string(&mut entry, name);
        reply(option, wire::REP_SERVER, &entry, out);
    }
    acknowledge(option, out);
}

impl Handshake {
    /// Answers `NBD_OPT_INFO` and `NBD_OPT_GO`; tells the export if it is to be had.
    pub(super) fn info(
        &self,
        option: u32,
        payload: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Option<ExportInfo> {
        let Some((name, wanted)) = parse_info(payload) else {
            refuse(option, wire::REP_ERR_INVALID, MALFORMED, out);
            return None;
        };
        let export = match exports.find(name) {
            Ok(export) => export,
            Err(refusal) => {
                refuse_export(option, &refusal, out);
                return None;
            }
        };
        if option == wire::OPT_GO && export.block_sizes.minimum > 1 && !wanted.block_size {
            let why = "this export has a minimum block size: ask for NBD_INFO_BLOCK_SIZE and honour it";
            refuse(option, wire::REP_ERR_BLOCK_SIZE_REQD, why, out);
            return None;
        }
        let mut fact = Vec::new();
        fact.put_u16(wire::INFO_EXPORT);
        fact.put_u64(export.size_bytes);
        fact.put_u16(transmission_flags(&export, self.style));
        reply(option, wire::REP_INFO, &fact, out);
        for (wanted, kind, text) in [
            (wanted.name, wire::INFO_NAME, &export.name),
            (wanted.description, wire::INFO_DESCRIPTION, &export.description),
        ] {
            if wanted && !text.is_empty() {
                fact.clear();
                fact.put_u16(kind);
                fact.extend_from_slice(clipped(text).as_bytes());
                reply(option, wire::REP_INFO, &fact, out);
            }
        }
        if wanted.block_size {
            fact.clear();
            fact.put_u16(wire::INFO_BLOCK_SIZE);
            fact.put_u32(export.block_sizes.minimum);
            fact.put_u32(export.block_sizes.preferred);
            fact.put_u32(export.block_sizes.maximum);
            reply(option, wire::REP_INFO, &fact, out);
        }
        acknowledge(option, out);
        Some(export)
    }

    /// Answers `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`. A context's id is its place in the
    /// export's list, from 1 on; when only listing it is 0, as the spec says.
    pub(super) fn meta_context(
        &mut self,
        option: u32,
        payload: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) {
        let setting = option == wire::OPT_SET_META_CONTEXT;
        if setting {
            self.selected = None;
        }
        if self.style == HeaderStyle::Simple {
            return refuse(option, wire::REP_ERR_INVALID, "negotiate structured replies first", out);
        }
        let Some((name, queries)) = parse_meta_context(payload) else {
            return refuse(option, wire::REP_ERR_INVALID, MALFORMED, out);
        };
        let export = match exports.find(name) {
            Ok(export) => export,
            Err(refusal) => return refuse_export(option, &refusal, out),
        };
        let mut contexts = Vec::new();
        for (name, place) in export.contexts.iter().take(CONTEXTS_MAX).zip(1..) {
            let asked = |query: &&[u8]| *query == name.as_bytes() || (!setting && is_namespace(query, name));
            if queries.iter().any(asked) || (!setting && queries.is_empty()) {
                contexts.push(Context { id: if setting { place } else { 0 }, name: name.clone() });
            }
        }
        for context in &contexts {
            let mut entry = Vec::with_capacity(4 + context.name.len());
            entry.put_u32(context.id);
            entry.extend_from_slice(clipped(&context.name).as_bytes());
            reply(option, wire::REP_META_CONTEXT, &entry, out);
        }
        if setting {
            self.selected = Some(Selected { export: export.name, contexts });
        }
        acknowledge(option, out);
    }
}

/// Whether `query` is the namespace of `context` with its colon and nothing else: `base:` for `base:allocation`.
/// Such a query lists the namespace; it does not select, because nobody can answer for contexts they do not know.
fn is_namespace(query: &[u8], context: &str) -> bool {
    query.ends_with(b":")
        && context.as_bytes().starts_with(query)
        && query.iter().filter(|&&b| b == b':').count() == 1
}

#[derive(Default)]
struct WantedFacts {
    name: bool,
    description: bool,
    block_size: bool,
}

fn parse_info(payload: &[u8]) -> Option<(&str, WantedFacts)> {
    let mut reader = Reader::new(payload);
    let name = take_string(&mut reader)?;
    let mut wanted = WantedFacts::default();
    for _ in 0..reader.u16()? {
        match reader.u16()? {
            wire::INFO_NAME => wanted.name = true,
            wire::INFO_DESCRIPTION => wanted.description = true,
            wire::INFO_BLOCK_SIZE => wanted.block_size = true,
            _ => {}
        }
    }
    reader.is_empty().then_some((name, wanted))
}

fn parse_meta_context(payload: &[u8]) -> Option<(&str, Vec<&[u8]>)> {
    let mut reader = Reader::new(payload);
    let name = take_string(&mut reader)?;
    let count = reader.u32()? as usize;
    if count > CONTEXTS_MAX {
        return None;
    }
    let mut queries = Vec::with_capacity(count);
    for _ in 0..count {
        let len = reader.u32()? as usize;
        if len > STRING_BYTES_MAX {
            return None;
        }
        queries.push(reader.take(len)?);
    }
    reader.is_empty().then_some((name, queries))
}

fn take_string<'a>(reader: &mut Reader<'a>) -> Option<&'a str> {
    let len = reader.u32()? as usize;
    if len > STRING_BYTES_MAX {
        return None;
    }
    std::str::from_utf8(reader.take(len)?).ok()
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.put_u32(u32::try_from(text.len()).expect("strings are clipped to the limit"));
    out.extend_from_slice(text.as_bytes());
}
