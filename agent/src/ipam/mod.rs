//! Address management on Calico's records.
