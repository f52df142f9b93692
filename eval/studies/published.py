"""What Chen et al. 2020 (arXiv 2002.05709v3) report of their studies, in per cent.

ImageNet, ResNet-50 unless told otherwise, top-1 of a linear classifier on h. No height here is comparable with that of
another data set or network; orders and differences are what a study looks at.
"""

SOURCE = "Chen et al. 2020, ImageNet, ResNet-50"

COMPOSED = ("crop", "cutout", "colour", "sobel", "noise", "blur", "rotation")
COMPOSITIONS = (
    (33.1, 33.9, 56.3, 46.0, 39.9, 35.0, 30.2),
    (32.2, 25.6, 33.9, 40.0, 26.5, 25.2, 22.4),
    (55.8, 35.5, 18.8, 21.0, 11.4, 16.5, 20.8),
    (46.2, 40.6, 20.9, 4.0, 9.3, 6.2, 4.2),
    (38.8, 25.8, 7.5, 7.6, 9.8, 9.8, 9.6),
    (35.1, 25.2, 16.6, 5.8, 9.7, 2.6, 6.7),
    (30.0, 22.5, 20.7, 4.3, 9.7, 6.5, 2.6),
)
"""Figure 5, by COMPOSED: the row's operation first, then the column's; on the diagonal one alone."""
COMPOSITION_AVERAGES = (39.2, 29.4, 25.7, 18.8, 15.5, 14.5, 13.8)
"""Last column of figure 5: the mean of each row."""

COLOUR = {
    "1/8": (59.6, 77.0),
    "1/4": (61.0, 76.7),
    "1/2": (62.6, 76.5),
    "1": (63.2, 75.7),
    "1 + blur": (64.5, 75.4),
}
"""Table 1, by strength of the colour jitter: SimCLR, and a supervised network. Its last column, AutoAugment, has 61.1
and 77.1."""

LOSSES = {
    "NT-Xent": 63.9,
    "NT-Logistic": 51.6,
    "NT-Logistic, semi-hard": 57.9,
    "margin triplet": 50.9,
    "margin triplet, semi-hard": 57.5,
}
"""Table 4, each loss tuned."""

TEMPERATURES = {
    ("cosine", 0.05): (90.5, 59.7),
    ("cosine", 0.1): (87.8, 64.4),
    ("cosine", 0.5): (68.2, 60.7),
    ("cosine", 1.0): (59.1, 58.0),
    ("dot product", 10.0): (91.7, 57.2),
    ("dot product", 100.0): (92.1, 57.0),
}
"""Table 5: accuracy of the contrastive task among 4,096 examples, and top-1."""

BATCH_SIZES = {
    ("linear", 256): {100: 57.5, 200: 61.9, 400: 64.7, 800: 66.6},
    ("linear", 512): {100: 60.7, 200: 64.0, 400: 66.2, 800: 67.8},
    ("linear", 1024): {100: 62.8, 200: 65.3, 400: 67.2, 800: 68.5},
    ("linear", 2048): {100: 64.0, 200: 66.1, 400: 68.1, 800: 68.9},
    ("linear", 4096): {100: 64.6, 200: 66.5, 400: 68.2, 800: 68.9},
    ("linear", 8192): {100: 64.8, 200: 66.6, 400: 67.8, 800: 69.0},
    ("sqrt", 256): {100: 62.8, 200: 64.3, 400: 65.7, 800: 66.5},
    ("sqrt", 512): {100: 63.8, 200: 65.6, 400: 66.7, 800: 67.4},
    ("sqrt", 1024): {100: 64.3, 200: 66.1, 400: 67.2, 800: 68.3},
    ("sqrt", 2048): {100: 64.7, 200: 66.8, 400: 67.9, 800: 68.8},
    ("sqrt", 4096): {100: 64.5, 200: 66.8, 400: 68.0, 800: 69.1},
    ("sqrt", 8192): {100: 64.8, 200: 67.0, 400: 68.3, 800: 69.1},
}
"""Table B.1, by rule of the learning rate and batch, then by epochs; the linear half is figure 9."""

WIDTHS = {1.0: 69.3, 2.0: 74.2, 4.0: 76.5}
"""Table 6, by width of the ResNet-50; 1000 epochs. The points of figure 7 are not given as numbers."""
