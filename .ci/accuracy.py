"""Fail unless the last accuracies that FILE speaks of are high enough: accuracy.py FILE PERCENT."""

import re
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text()
figures = [float(figure) for figure in re.findall(r"accuracy\D{0,40}?(\d+(?:\.\d+)?) ?%", text)]
print("accuracies:", figures)
sys.exit(0 if figures and min(figures[-2:]) >= float(sys.argv[2]) else 1)
