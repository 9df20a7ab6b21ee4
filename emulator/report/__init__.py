"""What a run showed: figures, verdicts and the result that people read."""
