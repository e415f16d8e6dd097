"""The MNIST CNN through the functional API, with named layers."""

import hornfels as keras
from hornfels import layers


def build() -> keras.Model:
    """The model of `mnist_sequential.py` as a graph of layers."""
    inputs = keras.Input(shape=(28, 28, 1), name="image")
    x = layers.Conv2D(32, 3, activation="relu", name="conv_1")(inputs)
    x = layers.MaxPooling2D(2, name="pool_1")(x)
    x = layers.Conv2D(64, 3, activation="relu", name="conv_2")(x)
    x = layers.MaxPooling2D(2, name="pool_2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(0.5, name="dropout")(x)
    outputs = layers.Dense(10, activation="softmax", name="digit")(x)
    model = keras.Model(inputs=inputs, outputs=outputs, name="mnist_cnn")
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=1e-3),
        loss=keras.losses.CategoricalCrossentropy(),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
    )
    return model


def main(train, test, epochs=15):
    """Train, evaluate, and look into the model by the names of its layers."""
    model = build()
    model.summary()
    x_train, y_train = train[0].astype("float32")[..., None] / 255, train[1]
    x_test, y_test = test[0].astype("float32")[..., None] / 255, test[1]
    y_train, y_test = (keras.utils.to_categorical(y, 10) for y in (y_train, y_test))
    history = model.fit(x_train, y_train, batch_size=128, epochs=epochs, validation_split=0.1)
    scores = model.evaluate(x_test, y_test, verbose=0)
    print("Test accuracy:", scores[1])
    features = keras.Model(model.input, model.get_layer("pool_2").output)
    print("Features of one image:", features.predict(x_test[:1], verbose=0).shape)
    return history, scores


if __name__ == "__main__":
    main(*keras.datasets.mnist.load_data())
