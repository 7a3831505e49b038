"""The trained nets: prior, decoder, upsampler and the U-Net that the last two share."""
