//! Where a mount may connect to. The rules are the agent's, too, which judges endpoints for programs that know none; the
//! connector in [`super::http`] applies them at each connect, so a name that changes its address later is judged again.

pub use mooring_control::address::*;
