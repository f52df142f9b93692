"""What limits a run on this machine, how long it will take, and what to change; and whether it can begin at all."""
