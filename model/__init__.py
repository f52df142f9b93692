"""Views -> representation h -> projection z -> loss; saving and loading an encoder."""
