"""Speed-comparison studies: the layers that are compared, and what they are compared with."""
