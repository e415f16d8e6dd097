"""The MNIST CNN as a Model subclass whose call depends on `training`."""

import hornfels as keras
from hornfels import layers


class MnistModel(keras.Model):
    """Two convolutions, two poolings, dropout only while training."""

    def __init__(self):
        super().__init__()
        self.conv_1 = layers.Conv2D(32, 3, activation="relu")
        self.pool_1 = layers.MaxPooling2D(2)
        self.conv_2 = layers.Conv2D(64, 3, activation="relu")
        self.pool_2 = layers.MaxPooling2D(2)
        self.flatten = layers.Flatten()
        self.dropout = layers.Dropout(0.5)
        self.classify = layers.Dense(10, activation="softmax")

    def call(self, inputs, training=False):
        x = self.pool_1(self.conv_1(inputs))
        x = self.pool_2(self.conv_2(x))
        x = self.flatten(x)
        if training:
            x = self.dropout(x, training=training)
        return self.classify(x)


def build() -> keras.Model:
    """The model, compiled; its weights are made when it sees data."""
    model = MnistModel()
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main(train, test, epochs=15):
    """Train on integer labels and evaluate."""
    model = build()
    x_train, y_train = train[0].astype("float32")[..., None] / 255, train[1]
    x_test, y_test = test[0].astype("float32")[..., None] / 255, test[1]
    history = model.fit(x_train, y_train, batch_size=128, epochs=epochs, validation_split=0.1)
    scores = model.evaluate(x_test, y_test, verbose=0)
    print("Test accuracy:", scores[1])
    return history, scores


if __name__ == "__main__":
    main(*keras.datasets.mnist.load_data())
