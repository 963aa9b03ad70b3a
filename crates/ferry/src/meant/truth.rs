//! What was meant by the words of `ferry truth`.

use ferry_agent::StateDir;

use super::{Meant, Misuse, Question, ask, parsed};
use crate::args;

pub(super) fn question(typed: args::truth::Truth) -> Result<Meant, Misuse> {
    let of = parsed(&typed.of)?;
    if typed.state_dirs.is_empty() {
        return ask(&typed.asking, Question::Truth(of));
    }
    let dirs = typed.state_dirs.iter().map(|typed| state_dir(typed)).collect::<Result<_, _>>()?;
    Ok(Meant::TruthAtRest { dirs, of, json: typed.asking.json })
}

/// `DIR` or `NAME=DIR`; what is no name before the first `=` belongs to the path.
fn state_dir(typed: &str) -> Result<StateDir, Misuse> {
    let (worker, dir) = match typed.split_once('=') {
        Some((name, dir)) if !name.contains('/') => (Some(parsed(name)?), dir),
        Some(_) | None => (None, typed),
    };
    if dir.is_empty() {
        return Err(Misuse("--state-dir names no directory; write it like /var/lib/ferry".to_owned()));
    }
    Ok(StateDir { worker, dir: dir.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_may_be_said_to_be_of_a_worker() {
        let given = |typed| state_dir(typed).unwrap();
        assert_eq!(given("/a"), StateDir { worker: None, dir: "/a".into() });
        assert_eq!(given("w1=/a"), StateDir { worker: Some("w1".parse().unwrap()), dir: "/a".into() });
        assert_eq!(given("/a=b"), StateDir { worker: None, dir: "/a=b".into() });
        assert!(state_dir("w1=").is_err() && state_dir("W 1=/a").is_err());
    }
}
