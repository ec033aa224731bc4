"""Transfer: takes CT with masks and a pretrained encoder, gives a segmentation network.

Read first: prepare.py, train.py, evaluate.py, segment.py: one for each act of `radnet-lake liver`.
"""
