"""A classifier with both ideas, switched by deep_training and series_activation."""

model = dict(
    type='ImageClassifier',
    backbone=dict(type='TwoIdeas', deep_training=True, series_activation=True),
)
