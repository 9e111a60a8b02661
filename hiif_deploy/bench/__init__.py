"""Speed and memory of engines and baselines, as ratios measured in one run.

May import: `upscaler` and what stands below it.
"""
