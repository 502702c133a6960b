"""Metrics of torchmetrics: of classes, labels, ranks, retrieval, groupings and images."""

from __future__ import annotations

import torch
import torchmetrics
import torchmetrics.functional as functional
import torchmetrics.functional.classification as c
import torchmetrics.functional.clustering as clustering
import torchmetrics.functional.retrieval as retrieval
import torchmetrics.functional.segmentation as segmentation
from cases import add, rows, seeded, spread

N, CLASSES, LABELS = 12, 4, 3
binary = (torch.arange(N) % 3 == 0).long()
classes = torch.arange(N) % CLASSES
labels = (torch.rand(6, LABELS, generator=seeded(7)) < 0.5).long()
groups = torch.arange(N) % 2
relevant = torch.arange(N) < 4
grades = torch.tensor([3, 0, 2, 0, 1, 0, 0, 1, 0, 0, 2, 0])
truth = torch.rand(N, generator=seeded(3), dtype=torch.float64)


def updated(metric, *targets, entry=None):
    """A modular metric, updated once."""

    def f(p):
        metric.reset()
        metric.update(p, *targets)
        found = metric.compute().double()
        return found.sum() if entry is None else found[entry]

    return f


add(
    "torchmetrics",
    spread(N),
    {
        "binary_accuracy": lambda p: c.binary_accuracy(p, binary),
        "binary_accuracy(threshold=.3)": lambda p: c.binary_accuracy(p, binary, threshold=0.3),
        "binary_cohen_kappa": lambda p: c.binary_cohen_kappa(p, binary),
        "binary_confusion_matrix": lambda p: c.binary_confusion_matrix(p, binary)[1, 1].double(),
        "binary_confusion_matrix(normalize)": lambda p: c.binary_confusion_matrix(p, binary, normalize="pred")[1, 1],
        "binary_f1_score": lambda p: c.binary_f1_score(p, binary),
        "binary_fbeta_score": lambda p: c.binary_fbeta_score(p, binary, beta=2.0),
        "binary_hamming_distance": lambda p: c.binary_hamming_distance(p, binary),
        "binary_jaccard_index": lambda p: c.binary_jaccard_index(p, binary),
        "binary_matthews_corrcoef": lambda p: c.binary_matthews_corrcoef(p, binary),
        "binary_negative_predictive_value": lambda p: c.binary_negative_predictive_value(p, binary),
        "binary_precision": lambda p: c.binary_precision(p, binary),
        "binary_recall": lambda p: c.binary_recall(p, binary),
        "binary_specificity": lambda p: c.binary_specificity(p, binary),
        "binary_stat_scores": lambda p: c.binary_stat_scores(p, binary)[:2].double().prod(),
        "binary_groups_stat_rates": lambda p: c.binary_groups_stat_rates(p, binary, groups, 2)["group_0"][0].double(),
        "binary_hinge_loss": lambda p: c.binary_hinge_loss(p, binary),
        "critical_success_index": lambda p: functional.critical_success_index(p, truth, 0.5),
        "spearman_corrcoef": lambda p: functional.spearman_corrcoef(p, truth),
        "kendall_rank_corrcoef": lambda p: functional.kendall_rank_corrcoef(p[:6], truth[:6]),
        "retrieval_average_precision": lambda p: retrieval.retrieval_average_precision(p, relevant),
        "retrieval_fall_out": lambda p: retrieval.retrieval_fall_out(p, relevant, top_k=4),
        "retrieval_hit_rate": lambda p: retrieval.retrieval_hit_rate(p, relevant, top_k=2),
        "retrieval_normalized_dcg": lambda p: retrieval.retrieval_normalized_dcg(p, grades),
        "retrieval_normalized_dcg(top_k=4)": lambda p: retrieval.retrieval_normalized_dcg(p, grades, top_k=4),
        "retrieval_precision": lambda p: retrieval.retrieval_precision(p, relevant, top_k=4),
        "retrieval_r_precision": lambda p: retrieval.retrieval_r_precision(p, relevant),
        "retrieval_recall": lambda p: retrieval.retrieval_recall(p, relevant, top_k=4),
        "retrieval_reciprocal_rank": lambda p: retrieval.retrieval_reciprocal_rank(p, relevant),
        "retrieval_precision_recall_curve": lambda p: retrieval.retrieval_precision_recall_curve(p, relevant)[0].sum(),
        "retrieval_auroc": lambda p: retrieval.retrieval_auroc(p, relevant),
        "mutual_info_score of a threshold": lambda p: clustering.mutual_info_score((p > 0.5).long(), groups),
        "rand_score of a threshold": lambda p: clustering.rand_score((p > 0.5).long(), groups),
        "v_measure_score of a threshold": lambda p: clustering.v_measure_score((p > 0.5).long(), groups),
        "mean_absolute_error of rounded": lambda p: functional.mean_absolute_error(p.round(), truth.round()),
        "cramers_v of a threshold": lambda p: functional.nominal.cramers_v(
            (p > 0.5).long(), groups, bias_correction=False
        ),
        "fleiss_kappa of thresholds": lambda p: functional.fleiss_kappa(
            torch.stack([(p > 0.5).long() + groups, (p <= 0.5).long() + 1 - groups], 1), mode="counts"
        ),
    },
)
CURVES = {
    "binary_auroc": lambda p: c.binary_auroc(p, binary),
    "binary_auroc(thresholds=7)": lambda p: c.binary_auroc(p, binary, thresholds=7),
    "binary_auroc(max_fpr=.4)": lambda p: c.binary_auroc(p, binary, max_fpr=0.4),
    "binary_average_precision": lambda p: c.binary_average_precision(p, binary),
    "binary_average_precision(thresholds=7)": lambda p: c.binary_average_precision(p, binary, thresholds=7),
    "binary_calibration_error": lambda p: c.binary_calibration_error(p, binary, n_bins=5),
    "binary_calibration_error(norm=max)": lambda p: c.binary_calibration_error(p, binary, n_bins=5, norm="max"),
    "binary_eer": lambda p: c.binary_eer(p, binary),
    "binary_precision_at_fixed_recall": lambda p: c.binary_precision_at_fixed_recall(p, binary, 0.6)[0],
    "binary_precision_recall_curve": lambda p: c.binary_precision_recall_curve(p, binary)[0].sum(),
    "binary_precision_recall_curve(thresholds=5)": lambda p: c.binary_precision_recall_curve(p, binary, thresholds=5)[
        0
    ].sum(),
    "binary_recall_at_fixed_precision": lambda p: c.binary_recall_at_fixed_precision(p, binary, 0.5)[0],
    "binary_roc": lambda p: c.binary_roc(p, binary)[1].sum(),
    "binary_roc(thresholds=5)": lambda p: c.binary_roc(p, binary, thresholds=5)[1].sum(),
    "binary_sensitivity_at_specificity": lambda p: c.binary_sensitivity_at_specificity(p, binary, 0.6)[0],
    "BinaryAUROC": updated(torchmetrics.classification.BinaryAUROC(), binary),
    "BinaryAveragePrecision(thresholds=5)": updated(
        torchmetrics.classification.BinaryAveragePrecision(thresholds=5), binary
    ),
    "BinaryCalibrationError": updated(torchmetrics.classification.BinaryCalibrationError(n_bins=5), binary),
}
CURVES |= {
    "BinaryAccuracy": updated(torchmetrics.classification.BinaryAccuracy(), binary),
    "BinaryF1Score": updated(torchmetrics.classification.BinaryF1Score(), binary),
    "BinaryPrecision": updated(torchmetrics.classification.BinaryPrecision(), binary),
    "BinaryConfusionMatrix": updated(torchmetrics.classification.BinaryConfusionMatrix(), binary, entry=(1, 1)),
}
add("torchmetrics", spread(N), CURVES, see_through=True)
add(
    "torchmetrics",
    rows(N, CLASSES),
    {
        "multiclass_accuracy": lambda p: c.multiclass_accuracy(p, classes, CLASSES),
        "multiclass_accuracy(micro)": lambda p: c.multiclass_accuracy(p, classes, CLASSES, average="micro"),
        "multiclass_accuracy(top_k=2)": lambda p: c.multiclass_accuracy(p, classes, CLASSES, top_k=2),
        "multiclass_cohen_kappa": lambda p: c.multiclass_cohen_kappa(p, classes, CLASSES),
        "multiclass_confusion_matrix": lambda p: c.multiclass_confusion_matrix(p, classes, CLASSES)[1, 1].double(),
        "multiclass_exact_match": lambda p: c.multiclass_exact_match(
            p.reshape(3, 4, CLASSES).movedim(2, 1), classes.reshape(3, 4), CLASSES, "global"
        ),
        "multiclass_f1_score": lambda p: c.multiclass_f1_score(p, classes, CLASSES),
        "multiclass_f1_score(weighted)": lambda p: c.multiclass_f1_score(p, classes, CLASSES, average="weighted"),
        "multiclass_fbeta_score": lambda p: c.multiclass_fbeta_score(p, classes, num_classes=CLASSES, beta=2.0),
        "multiclass_hamming_distance": lambda p: c.multiclass_hamming_distance(p, classes, CLASSES),
        "multiclass_hinge_loss": lambda p: c.multiclass_hinge_loss(p, classes, CLASSES),
        "multiclass_jaccard_index": lambda p: c.multiclass_jaccard_index(p, classes, CLASSES),
        "multiclass_jaccard_index(ignore_index=0)": lambda p: c.multiclass_jaccard_index(
            p, classes, CLASSES, ignore_index=0
        ),
        "multiclass_matthews_corrcoef": lambda p: c.multiclass_matthews_corrcoef(p, classes, CLASSES),
        "multiclass_negative_predictive_value": lambda p: c.multiclass_negative_predictive_value(p, classes, CLASSES),
        "multiclass_precision": lambda p: c.multiclass_precision(p, classes, CLASSES),
        "multiclass_recall": lambda p: c.multiclass_recall(p, classes, CLASSES),
        "multiclass_specificity": lambda p: c.multiclass_specificity(p, classes, CLASSES),
        "multiclass_stat_scores": lambda p: c.multiclass_stat_scores(p, classes, CLASSES)[:2].double().prod(),
        "mutual_info_score of argmax": lambda p: clustering.mutual_info_score(p.argmax(1), classes),
        "rand_score of argmax": lambda p: clustering.rand_score(p.argmax(1), classes),
        "adjusted_rand_score of argmax": lambda p: clustering.adjusted_rand_score(p.argmax(1), classes),
        "homogeneity_score of argmax": lambda p: clustering.homogeneity_score(p.argmax(1), classes),
        "completeness_score of argmax": lambda p: clustering.completeness_score(p.argmax(1), classes),
        "fowlkes_mallows_index of argmax": lambda p: clustering.fowlkes_mallows_index(p.argmax(1), classes),
        "theils_u of argmax": lambda p: functional.nominal.theils_u(p.argmax(1), classes),
        "mean_iou": lambda p: (
            segmentation.mean_iou(
                torch.nn.functional.one_hot(p.argmax(1), CLASSES).T[None],
                torch.nn.functional.one_hot(classes, CLASSES).T[None],
                CLASSES,
            )
            .double()
            .sum()
        ),
        "generalized_dice_score": lambda p: (
            segmentation.generalized_dice_score(
                torch.nn.functional.one_hot(p.argmax(1), CLASSES).T[None, :, :, None],
                torch.nn.functional.one_hot(classes, CLASSES).T[None, :, :, None],
                CLASSES,
            )
            .double()
            .sum()
        ),
    },
)
add(
    "torchmetrics",
    rows(N, CLASSES),
    {
        "multiclass_auroc": lambda p: c.multiclass_auroc(p, classes, CLASSES),
        "multiclass_auroc(thresholds=5)": lambda p: c.multiclass_auroc(p, classes, CLASSES, thresholds=5),
        "multiclass_average_precision": lambda p: c.multiclass_average_precision(p, classes, CLASSES),
        "multiclass_calibration_error": lambda p: c.multiclass_calibration_error(p, classes, CLASSES, n_bins=5),
        "multiclass_roc(thresholds=5)": lambda p: c.multiclass_roc(p, classes, CLASSES, thresholds=5)[1].sum(),
        "MulticlassAccuracy": updated(torchmetrics.classification.MulticlassAccuracy(CLASSES), classes),
        "MulticlassF1Score": updated(torchmetrics.classification.MulticlassF1Score(CLASSES), classes),
        "MulticlassJaccardIndex": updated(torchmetrics.classification.MulticlassJaccardIndex(CLASSES), classes),
        "MulticlassAUROC(thresholds=5)": updated(
            torchmetrics.classification.MulticlassAUROC(CLASSES, thresholds=5), classes
        ),
    },
    see_through=True,
)
add(
    "torchmetrics",
    lambda g: spread(18)(g).reshape(6, 3),
    {
        "multilabel_accuracy": lambda p: c.multilabel_accuracy(p, labels, LABELS),
        "multilabel_confusion_matrix": lambda p: c.multilabel_confusion_matrix(p, labels, LABELS)[0, 1, 1].double(),
        "multilabel_exact_match": lambda p: c.multilabel_exact_match(p, labels, LABELS),
        "multilabel_f1_score": lambda p: c.multilabel_f1_score(p, labels, LABELS),
        "multilabel_hamming_distance": lambda p: c.multilabel_hamming_distance(p, labels, LABELS),
        "multilabel_jaccard_index": lambda p: c.multilabel_jaccard_index(p, labels, LABELS),
        "multilabel_matthews_corrcoef": lambda p: c.multilabel_matthews_corrcoef(p, labels, LABELS),
        "multilabel_precision": lambda p: c.multilabel_precision(p, labels, LABELS),
        "multilabel_recall": lambda p: c.multilabel_recall(p, labels, LABELS),
        "multilabel_specificity": lambda p: c.multilabel_specificity(p, labels, LABELS),
        "multilabel_coverage_error": lambda p: c.multilabel_coverage_error(p, labels, LABELS),
        "multilabel_ranking_average_precision": lambda p: c.multilabel_ranking_average_precision(p, labels, LABELS),
        "multilabel_ranking_loss": lambda p: c.multilabel_ranking_loss(p, labels, LABELS),
    },
)
add(
    "torchmetrics",
    lambda g: spread(18)(g).reshape(6, 3),
    {
        "MultilabelF1Score": updated(torchmetrics.classification.MultilabelF1Score(LABELS), labels),
        "multilabel_auroc": lambda p: c.multilabel_auroc(p, labels, LABELS),
        "multilabel_auroc(thresholds=5)": lambda p: c.multilabel_auroc(p, labels, LABELS, thresholds=5),
        "multilabel_average_precision": lambda p: c.multilabel_average_precision(p, labels, LABELS),
    },
    see_through=True,
)
