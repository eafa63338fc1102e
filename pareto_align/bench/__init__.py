"""How fast this machine is with a model: measured before a run, never within one."""
