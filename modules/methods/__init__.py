"""One method, one file, by family.

* Masked prediction: `videomae` (pixels of masked tokens), `stmae` (the same, masked over space and time alike), `smile`
  (features of an image encoder, with moving objects), `sigma` (assignments to learned prototypes), `siammae` (a later frame,
  from an earlier one), `cropmae` (a part of an image, from all of it), `vjepa` (features of hidden blocks by a momentum copy),
  `lvmae` (features of the segments of a long video).
* Masked prediction and contrast: `crossvideomae` (pixels of a clip and of one of its frames, whose features agree).
* Contrastive: `moco` (two clips of a video), `cvrl` (the same in a large batch, without a queue), `rspnet` (also speeds of
  clips), `tubelet_contrast` (moving tubelets), `skeleton_contrast` (views of one body).
* Order in time: `shuffle_and_learn` (three frames, in order or not), `opn` (four shuffled frames), `odd_one_out` (one of
  several sub-sequences is shuffled), `vcop` (shuffled clips of a video).
* Rates and angles of clips: `prp` (playback rate and slow motion), `rotnet` (quarter turns).
* Video and language: `locomotion` (pasted motion and its captions).

Methods do not import each other; code that several of them share is in `masks`, `losses`, `augment` or `layers`, one layer
below.
"""
