//! Everything that `serve` tests, over stores past the page cache.

#[path = "serve/main.rs"]
mod serve;
