"""Images moved by fractions of a pixel: the threads share the images."""

from __future__ import annotations

from numbaconv.jit import Kernel, device, share


@device
def inside(i, length):
    """The index nearest to ``i`` that there is: beyond the edge the last pixel is repeated."""
    return min(max(i, 0), length - 1)


@Kernel
def shift(images, corners, fractions, shifted, stage, thread, threads):
    """``shifted[n, c, h, w]`` is the image at ``(h, w) + corners[:, n] + fractions[:, n]``, interpolated linearly.

    Along a row every column between two rows is the right neighbour of one pixel, then the left one of the next.
    """
    N, C, H, W = images.shape
    for n in share(N, thread, threads):
        down, right = fractions[0, n], fractions[1, n]
        for c in range(C):
            for h in range(H):
                above = images[n, c, inside(corners[0, n] + h, H)]
                below = images[n, c, inside(corners[0, n] + h + 1, H)]
                to = shifted[n, c, h]
                w = inside(corners[1, n], W)
                left = above[w] + (below[w] - above[w]) * down
                for i in range(W):
                    w = inside(corners[1, n] + i + 1, W)
                    next_left = above[w] + (below[w] - above[w]) * down
                    to[i] = left + (next_left - left) * right
                    left = next_left
