//! All integration tests, in one binary: one link of kube instead of many.

mod load;
