"""The parts of a report: each file reads what one section needs and says in a line what is missing."""
