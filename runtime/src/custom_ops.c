#include "custom_ops.h"

#include "op_attention.h"
#include "op_gated_recurrence.h"
#include "op_layer.h"
#include "op_linear.h"
#include "op_walk.h"

#include <stdatomic.h>

static const char DOMAIN[] = "forerun.runtime";

/* A process can hold more than one copy of ONNX Runtime (the Python wheel has two), and a domain belongs to one. */
enum { MAX_COPIES = 8 };

static OrtStatus *make_domain(const fr_ort_api *api, OrtCustomOpDomain **out) {
    *out = NULL;
    const OrtCustomOp *const ops[] = {
        &fr_op_linear_int8.op,           &fr_op_gated_linear_int8.op,  &fr_op_linear_int4.op,
        &fr_op_gated_linear_int4.op,     &fr_op_gated_recurrence,      &fr_op_cached_attention.op,
        &fr_op_cached_attention_int8.op, &fr_op_block_attention.op,    &fr_op_block_attention_int8.op,
        &fr_op_decoder_layer.op,         &fr_op_decoder_layer_int8.op, &fr_op_greedy_walk};
    OrtStatus *status = api->CreateCustomOpDomain(DOMAIN, out);
    for (size_t i = 0; i < sizeof ops / sizeof ops[0] && status == NULL; i++)
        status = api->CustomOpDomain_Add(*out, ops[i]);
    return status;
}

OrtStatus *fr_custom_ops_add(const fr_ort_api *api, OrtSessionOptions *options, OrtCustomOpDomain **out) {
    OrtStatus *status = make_domain(api, out);
    return status != NULL ? status : api->AddCustomOpDomain(options, *out);
}

OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    static struct {
        const OrtApi *table;
        OrtCustomOpDomain *domain;
    } copies[MAX_COPIES];
    static atomic_flag busy = ATOMIC_FLAG_INIT;
    const OrtApi *table = base->GetApi(ORT_API_VERSION_USED);
    if (table == NULL)
        return fr_ort_too_old(base);
    fr_ort_api api = {.version = base->GetVersionString()};
    fr_ort_know(base);
    fr_ort_fill(table, &api);
    OrtStatus *status = NULL;
    while (atomic_flag_test_and_set(&busy))
        ;
    size_t i = 0;
    while (i < MAX_COPIES && copies[i].table != NULL && copies[i].table != table)
        i++;
    if (i == MAX_COPIES) {
        status = api.CreateStatus(ORT_INVALID_ARGUMENT, "forerun: more copies of ONNX Runtime in one process than 8.");
    } else if (copies[i].table == NULL) {
        status = make_domain(&api, &copies[i].domain);
        if (status == NULL)
            copies[i].table = table;
        else if (copies[i].domain != NULL)
            api.ReleaseCustomOpDomain(copies[i].domain);
    }
    atomic_flag_clear(&busy);
    return status != NULL ? status : api.AddCustomOpDomain(options, copies[i].domain);
}
