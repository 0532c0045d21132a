"""Who may run on one accelerator, and when: pure judgement, driven through agent/hal."""
