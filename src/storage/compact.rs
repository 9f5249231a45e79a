//! Compact (to come).
