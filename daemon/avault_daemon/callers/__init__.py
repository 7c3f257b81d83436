"""Who calls, and what they may: the kernel's word, the policy, the gate."""
