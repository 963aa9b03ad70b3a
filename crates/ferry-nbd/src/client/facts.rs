//! What a server tells about an export, checked before anybody believes it.

use crate::bytes::Reader;
use crate::error::ProtocolError;
use crate::export::{BlockSizes, ExportInfo};
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::wire;

/// The largest minimum block size that the spec allows, in bytes.
const MINIMUM_BYTES_MAX: u32 = 64 << 10;

/// The facts told so far. A later one replaces an earlier one.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    size_and_flags: Option<(u64, u16)>,
    block_sizes: BlockSizes,
    description: String,
}

impl Facts {
    /// Takes the payload of one `NBD_REP_INFO`; unknown kinds are ignored, as the spec wants.
    pub(super) fn learn(&mut self, payload: &[u8]) -> Result<(), ProtocolError> {
        let malformed = ProtocolError::Malformed("a fact about the export");
        let mut reader = Reader::new(payload);
        match reader.u16().ok_or(malformed.clone())? {
            wire::INFO_EXPORT => {
                let (Some(size_bytes), Some(flags)) = (reader.u64(), reader.u16()) else {
                    return Err(malformed);
                };
                self.learn_size(size_bytes, flags)
            }
            wire::INFO_BLOCK_SIZE => {
                let (Some(minimum), Some(preferred), Some(maximum)) =
                    (reader.u32(), reader.u32(), reader.u32())
                else {
                    return Err(malformed);
                };
                self.block_sizes = checked(BlockSizes { minimum, preferred, maximum })?;
                Ok(())
            }
            wire::INFO_DESCRIPTION => {
                self.description = String::from_utf8_lossy(reader.rest()).into_owned();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Takes size and transmission flags.
    pub(super) fn learn_size(&mut self, size_bytes: u64, flags: u16) -> Result<(), ProtocolError> {
        if size_bytes > i64::MAX as u64 {
            return Err(ProtocolError::BadExport { what: "size", value: size_bytes });
        }
        let flags = if flags & wire::FLAG_HAS_FLAGS == 0 { 0 } else { flags };
        self.size_and_flags = Some((size_bytes, flags));
        Ok(())
    }

    /// Whether reads may ask not to be fragmented.
    pub(super) fn can_send_df(&self) -> bool {
        self.size_and_flags.is_some_and(|(_, flags)| flags & wire::FLAG_SEND_DF != 0)
    }

    /// All facts together.
    pub(super) fn export(&self, name: String, contexts: Vec<String>) -> Result<ExportInfo, ProtocolError> {
        let (size_bytes, flags) = self.size_and_flags.ok_or(ProtocolError::NoExportInfo)?;
        let has = |flag: u16| flags & flag != 0;
        let read_only = has(wire::FLAG_READ_ONLY);
        Ok(ExportInfo {
            name,
            description: self.description.clone(),
            size_bytes,
            read_only,
            can_flush: has(wire::FLAG_SEND_FLUSH),
            can_fua: has(wire::FLAG_SEND_FUA),
            can_trim: !read_only && has(wire::FLAG_SEND_TRIM),
            can_write_zeroes: !read_only && has(wire::FLAG_SEND_WRITE_ZEROES),
            can_fast_zero: !read_only && has(wire::FLAG_SEND_FAST_ZERO),
            can_cache: has(wire::FLAG_SEND_CACHE),
            can_multi_conn: has(wire::FLAG_CAN_MULTI_CONN),
            block_sizes: self.block_sizes,
            contexts,
        })
    }
}

/// Block sizes that one can work with. The preferred size is only a hint, so a strange one is mended; the maximum is
/// cut to what we ask for anyway.
fn checked(told: BlockSizes) -> Result<BlockSizes, ProtocolError> {
    let minimum = told.minimum;
    if !minimum.is_power_of_two() || minimum > MINIMUM_BYTES_MAX {
        return Err(ProtocolError::BadExport { what: "minimum block size", value: minimum.into() });
    }
    if told.maximum < minimum {
        return Err(ProtocolError::BadExport { what: "maximum block size", value: told.maximum.into() });
    }
    let maximum = told.maximum.min(PAYLOAD_BYTES_MAX) / minimum * minimum;
    let preferred =
        if told.preferred.is_power_of_two() { told.preferred } else { BlockSizes::default().preferred };
    Ok(BlockSizes { minimum, preferred: preferred.clamp(minimum, maximum), maximum })
}
