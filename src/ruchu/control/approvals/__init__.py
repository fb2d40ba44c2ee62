"""Four eyes: what destroys waits until a second person has agreed to exactly that."""
