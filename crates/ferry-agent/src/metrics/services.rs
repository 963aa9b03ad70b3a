//! Figures of services.

use super::page::{Labels, Page, label, seconds};
use ferry_api::ServiceStatus;

/// Writes the figures of all services that are known here.
pub(super) fn write(page: &mut Page<'_>, services: &[ServiceStatus]) -> std::fmt::Result {
    let each = |figure: fn(&ServiceStatus) -> f64| services.iter().map(move |of| (labels(of), figure(of)));
    page.gauge(
        "ferry_service_served",
        "1 if this worker listens for the service.",
        each(|of| if of.listens_at.is_some() { 1.0 } else { 0.0 }),
    )?;
    page.gauge(
        "ferry_service_connections",
        "Connections that are through.",
        each(|of| of.connections as f64),
    )?;
    page.gauge("ferry_service_held", "Connections that wait for the machine.", each(|of| of.held as f64))?;
    page.gauge(
        "ferry_service_longest_wait_seconds",
        "The longest that one has waited for the machine since the agent started.",
        each(|of| seconds(of.longest_wait_ms)),
    )?;
    let count = |figure: fn(&ServiceStatus) -> u64| services.iter().map(move |of| (labels(of), figure(of)));
    page.counter("ferry_service_accepted", "Connections that came.", count(|of| of.accepted))?;
    page.counter("ferry_service_refused", "Those of them that were refused.", count(|of| of.refused))
}

fn labels(of: &ServiceStatus) -> Labels {
    vec![label("machine", &of.machine_name), label("machine_id", of.machine), label("port", of.service.port)]
}
