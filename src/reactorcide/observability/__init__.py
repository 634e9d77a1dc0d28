"""What the program tells of itself: its log and its metrics."""
