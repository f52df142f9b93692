"""What the stages of a step mean to whoever looks for the one that limits, and their colours."""

CAUSES = {
    "data": "loader",
    "agree": "slowest rank",
    "augment": "views",
    "forward|loss|backward|optimizer": "encoder",
    "gather|all_reduce": "communication",
    "evaluation": "watching",
    "checkpoint": "checkpoints",
}
"""What a stage's time is owed to, by regular expressions of stages."""
STAGE_COLOURS = {
    "data": "#E02F44",
    "agree": "#FF9830",
    "augment": "#FADE2A",
    "forward": "#1F60C4",
    "gather": "#B877D9",
    "loss": "#73BF69",
    "backward": "#5794F2",
    "all_reduce": "#8F3BB8",
    "optimizer": "#37872D",
    "evaluation": "#96D98D",
    "checkpoint": "#808080",
}
"""Waiting is warm, communication violet, encoder and head blue and green."""
