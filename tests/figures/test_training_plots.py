from pcam_tf.figures import training_plots


def test_phases_are_drawn_with_their_rates_and_parameters():
    figure = training_plots.phases(
        {"frozen": [0.0, 3e-3, 0.0], "unfrozen": [0.0, 7e-4, 0.0]},
        {"frozen": 1281, "unfrozen": 3_372_289},
    )
    rate, parameters = figure.axes
    assert [line.get_label() for line in rate.lines] == ["frozen phase", "unfrozen phase"]
    assert rate.lines[0].get_ydata().max() == 3e-3
    assert [bar.get_width() for bar in parameters.patches] == [1281, 3_372_289]
    assert {"1,281", "3,372,289"} <= {text.get_text() for text in parameters.texts}
