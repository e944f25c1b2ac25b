"""Several turns with what was trained, its words as they come, one run beside another.

speaker     one run: its history, its template, its answer in pieces
services    the services that the runs need, each started once
screen      how answers are shown: below each other, or in columns
__main__    `python -m sft.chat RUN [RUN]`
"""
