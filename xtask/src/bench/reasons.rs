//! Why a cell misses its goal, as far as is known: kept beside the table when the cell does miss. What was profiled says so;
//! the rest is judgement.

/// The beginning of a cell's name, and what was found.
const REASONS: [(&str, &str); 6] = [
    (
        "first read of a remote",
        "Profiled: the read makes two hops, guest to target and target to source, where the comparison makes one. Without a network \
         between them a hop is two wake-ups of a sleeping process, which is nearly all that the comparison costs: 2 is \
         the floor here. What comes on top are the checksum (asked for in the same message, made and compared) and the \
         copy into the store. Each round trip of a real network is paid once by both.",
    ),
    (
        "guest's 4 KiB requests while hydrating",
        "Judged, not profiled: on two cores the guest, its server, the source and the kernel's writing share the processors; a guest's \
         request that finds all of them busy waits for a time slice, whatever the pace. The guard lowers the pace down \
         to the guaranteed share and no further.",
    ),
    (
        "4 KiB random write, qd 1, 4 connections",
        "Judged, not profiled: one thread serves all connections, where nbdkit has a thread for each of them and the machine two cores; \
         what it saves by gathering replies shows only at depth.",
    ),
    (
        "memory of a volume server, idle",
        "Looked at: about 1 MiB is the server's own. The rest are pages of the program and of libc that are in the page cache anyway, \
         mapped, and shared by all volume servers of a host; how many the kernel maps at a time depends on how the file lies there.",
    ),
    (
        "hydration",
        "Profiled: the disk and the copying of bytes by the kernel (to the socket, from it, to the page cache) are what is left; \
         both sides also make a checksum of every byte, which nbdcopy does not. With a cold page cache the source reads its disk, \
         the same one that the target writes, which plain copying here does not.",
    ),
    (
        "128 KiB sequential read",
        "Not profiled: all of it comes from the page cache by two copies, on whichever processor the guest leaves free; \
         the range says how much of it is the machine.",
    ),
];

/// What is known about this cell.
pub fn of(work: &str) -> Option<&'static str> {
    REASONS.iter().find(|(beginning, _)| work.starts_with(beginning)).map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_found_by_how_a_cell_is_called() {
        assert!(
            of("first read of a remote 4 KiB block, p50").is_some_and(|reason| reason.contains("two hops"))
        );
        assert_eq!(of("4 KiB random read, qd 1, 1 connection"), None);
    }
}
