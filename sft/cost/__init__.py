"""What a run costs: prices, what is billed, the estimate before it and the budget during it.

prices      USD per million tokens: the user's own, the provider's, those of conf/prices.yaml
usage       tokens by kind of bill, and what requests use
budget      money that may be spent, by one run or by all runs of a sweep
meter       what a run has used so far, written down before it is asked for
estimate    what a run will cost, by part
bill        the provider's own billing, beside the meter
__main__    `python -m sft.cost RUN|STUDY`
"""
