"""What the machine says, one source a module; ``hardware.probe`` puts it together."""
