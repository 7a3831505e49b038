"""What the world is made of: the names that captions may use, and the colours behind them (sRGB in [0, 1])."""

SHAPES = ("cube", "sphere", "cylinder", "cone")
MATERIALS = ("matte", "shiny", "striped")
SIZES = ("small", "large")
STYLES = ("photo", "drawing")
RELATIONS = ("on top of", "left of", "right of", "in front of", "behind")

# Hues are spread so that no light, tint or stripe of the world moves one past the middle to its neighbour; nothing
# is white, pink or brown, which stripes, highlights and shade make of the others.
COLOURS = {
    "red": (0.86, 0.07, 0.10),
    "orange": (1.00, 0.50, 0.02),
    "yellow": (1.00, 0.88, 0.06),
    "green": (0.08, 0.62, 0.16),
    "cyan": (0.05, 0.80, 0.84),
    "blue": (0.09, 0.23, 0.88),
    "purple": (0.62, 0.12, 0.75),
    "gray": (0.52, 0.52, 0.52),
}
FLOORS = {
    "white": (0.94, 0.94, 0.93),
    "black": (0.17, 0.17, 0.18),
    "brown": (0.56, 0.40, 0.29),
    "pink": (0.97, 0.71, 0.77),
    "yellow": (0.96, 0.89, 0.58),
    "green": (0.64, 0.83, 0.63),
    "blue": (0.62, 0.77, 0.95),
    "purple": (0.74, 0.66, 0.91),
}
STRIPE = (0.95, 0.95, 0.93)
BOARD = (0.97, 0.97, 0.95)
INK = (0.09, 0.09, 0.12)
CHALK = (0.97, 0.97, 0.97)
CHALKED = ("red", "green", "blue", "purple")  # colours dark enough for white letters

# Short, since four letters must be read at 64 px; some name a shape or a colour, as a typographic attack does.
WORDS = (
    "cat", "dog", "sun", "tree", "fish", "star", "stop", "open", "exit", "love",
    "red", "blue", "green", "gray", "cube", "ball", "cone", "can",
)  # fmt: skip
