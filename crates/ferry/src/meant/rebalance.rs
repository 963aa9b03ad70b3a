//! What was meant by the words of `ferry rebalance`.

use ferry_api::{AskRebalance, BalanceBy, StartRebalance};

use super::drain::{machines, plan_in};
use super::{Meant, Misuse, Question, ask, mode_of, pace, retention_hours};
use crate::args;
use crate::args::rebalance::By;

pub(super) fn question(typed: args::rebalance::Rebalance) -> Result<Meant, Misuse> {
    if let Some(file) = &typed.apply {
        let plan = plan_in(file, "ferry rebalance")?;
        let retention_hours = retention_hours(typed.retention)?;
        let start = Box::new(StartRebalance { plan, retention_hours, only_check: false });
        return ask(&typed.asking, Question::RebalanceApply { start, follow: !typed.detach });
    }
    let wanted = AskRebalance {
        by: match typed.by {
            By::Room => BalanceBy::Room,
            By::Load => BalanceBy::Load,
        },
        tolerance_permille: u32::from(typed.tolerance) * 10,
        only: machines(&typed.only)?,
        except: machines(&typed.except)?,
        mode: mode_of(typed.mode),
        max_parallel: typed.max_parallel,
        max_parallel_per_link: typed.max_parallel_per_link,
        bandwidth_bytes_per_s: typed.bandwidth.as_deref().map(pace::bandwidth).transpose()?,
    };
    ask(&typed.asking, Question::RebalancePlan(wanted))
}
