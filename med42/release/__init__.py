"""Release: the gate, the push, and the sealed audit bundle."""
