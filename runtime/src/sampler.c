#include "sampler.h"

#include <math.h>

int64_t fr_argmax(const float *values, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (values[i] > values[best])
            best = i;
    return (int64_t)best;
}

void forerun_softmax(const float *logits, size_t vocab_size, float temperature, float *out) {
    float largest = logits[fr_argmax(logits, vocab_size)];
    double sum = 0.0;
    for (size_t i = 0; i < vocab_size; i++) {
        out[i] = expf((logits[i] - largest) / temperature);
        sum += (double)out[i];
    }
    for (size_t i = 0; i < vocab_size; i++)
        out[i] = (float)((double)out[i] / sum);
}

int64_t forerun_sample(const float *weights, size_t vocab_size, float uniform) {
    double total = 0.0;
    for (size_t i = 0; i < vocab_size; i++)
        total += (double)weights[i];
    double threshold = (double)uniform * total;
    double cumulative = 0.0;
    size_t last = 0;
    for (size_t i = 0; i < vocab_size; i++) {
        if (!(weights[i] > 0.0f))
            continue;
        cumulative += (double)weights[i];
        last = i;
        if (cumulative > threshold)
            break;
    }
    return (int64_t)last;
}
