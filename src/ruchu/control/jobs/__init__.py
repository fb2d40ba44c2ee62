"""Jobs: runs of policies and of what people start by hand, from their start to their last word."""
