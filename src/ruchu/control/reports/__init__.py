"""Reports by mail: what the last day or week was like."""
