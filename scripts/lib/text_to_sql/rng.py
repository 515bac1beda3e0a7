"""A random generator whose numbers are the same on every machine and in every Python version (SplitMix64)."""

MASK = (1 << 64) - 1


def hash_text(text):
    """FNV-1a of the text's UTF-8 bytes: 64 bits, the same in every process."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


class Rng:
    """Draws from a stream named by a seed and any number of labels."""

    def __init__(self, seed, *labels):
        self.state = (seed ^ hash_text("/".join(map(str, labels)))) & MASK

    def bits(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, n):
        """An integer in [0, n)."""
        return (self.bits() * n) >> 64

    def between(self, low, high):
        """An integer in [low, high]."""
        return low + self.below(high - low + 1)

    def chance(self, probability):
        return self.bits() < probability * 2.0**64

    def choice(self, items):
        return items[self.below(len(items))]

    def weighted(self, pairs):
        """One item of (weight, item) pairs; weights are positive integers."""
        left = self.below(sum(weight for weight, _ in pairs))
        for weight, item in pairs:
            left -= weight
            if left < 0:
                return item
        raise AssertionError("weights do not add up")

    def shuffled(self, items):
        result = list(items)
        for i in range(len(result) - 1, 0, -1):
            j = self.below(i + 1)
            result[i], result[j] = result[j], result[i]
        return result

    def sample(self, items, count):
        """`count` different items, in random order."""
        return self.shuffled(items)[:count]
