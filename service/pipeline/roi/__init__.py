"""Where the canister is in the frame."""
