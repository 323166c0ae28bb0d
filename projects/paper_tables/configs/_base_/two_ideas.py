"""A classifier whose net has both ideas; deep_training and series_activation switch them."""

model = dict(
    type='ImageClassifier',
    backbone=dict(type='TwoIdeas', deep_training=True, series_activation=True),
)
