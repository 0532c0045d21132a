"""Shares of GPUs on Kubernetes, by device memory: a scheduler extender that answers what
gpushare-scheduler-extender does, without its defects."""
