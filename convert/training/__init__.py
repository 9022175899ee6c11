"""Trains an adapter for a decoder, or an encoder, all of it or only its head.

finetune_stage.py       the stage: trains as the recipe asks
training_loop.py        epochs, warm-up and cosine, early stopping on held-out rows
decoder_trainer.py      LoRA training of a decoder
lora.py                 which layers of a decoder are trained
encoder_trainer.py      training of an encoder
encoder_objective.py    the losses of an encoder
checkpoint_loading.py   loads checkpoints with transformers
"""
