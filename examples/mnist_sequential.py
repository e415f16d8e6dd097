"""The MNIST CNN of every Keras tutorial as a Sequential model; only the import line is ours."""

import hornfels as keras
from hornfels import layers


def build() -> keras.Sequential:
    """Two convolutions, two poolings and a classifier, compiled."""
    model = keras.Sequential(
        [
            layers.Conv2D(32, kernel_size=(3, 3), activation="relu", input_shape=(28, 28, 1)),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Conv2D(64, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model


def prepare(x, y):
    """Images in [0, 1] with a channel axis, labels one-hot."""
    return x.astype("float32")[..., None] / 255, keras.utils.to_categorical(y, 10)


def main(train, test, epochs=15):
    """Train with a validation split, evaluate and predict; returns the history and the scores."""
    model = build()
    model.summary()
    x_train, y_train = prepare(*train)
    x_test, y_test = prepare(*test)
    history = model.fit(x_train, y_train, batch_size=128, epochs=epochs, validation_split=0.1)
    scores = model.evaluate(x_test, y_test, verbose=0)
    print("Test loss:", scores[0])
    print("Test accuracy:", scores[1])
    print("Validation accuracy by epoch:", history.history["val_accuracy"])
    print("First predictions:", model.predict(x_test[:5], verbose=0).argmax(-1))
    return history, scores


if __name__ == "__main__":
    main(*keras.datasets.mnist.load_data())
