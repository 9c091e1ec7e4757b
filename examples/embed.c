/* Speculative decoding with no Python in the process.
 *
 * Header and library are inside the installed package:
 *
 *     at=$(python -c "import forerun, os; print(os.path.dirname(forerun.__file__))")
 *     cc embed.c -I"$at/include" -L"$at/lib" -lforerun -Wl,-rpath,"$at/lib" -o embed
 *
 *     ./embed BUNDLE LIBONNXRUNTIME MAX_NEW_TOKENS TOKEN...
 *
 * LIBONNXRUNTIME is the path of libonnxruntime.so; the onnxruntime wheel has it in onnxruntime/capi. The prompt is
 * given as token ids: python -c "import forerun; print(*forerun.load('BUNDLE').encode('def main('))"
 */
#include <forerun.h>

#include <stdio.h>
#include <stdlib.h>

static int fail(const forerun_error *error) {
    fprintf(stderr, "embed: %s: %s\n", forerun_status_name(error->status), error->message);
    return 1;
}

/* Writes the text of one round as soon as it is there. */
static void print_round(const forerun_engine *engine, const forerun_round *round) {
    for (size_t i = 0; i < round->n_committed; i++) {
        const char *bytes;
        size_t n_bytes;
        if (forerun_token_bytes(engine, round->committed[i], &bytes, &n_bytes, NULL) == FORERUN_OK)
            fwrite(bytes, 1, n_bytes, stdout);
    }
    fflush(stdout);
}

static int generate(forerun_engine *engine, const int64_t *prompt, size_t n_prompt, int64_t max_new_tokens) {
    forerun_error error;
    forerun_request request = {.struct_size = sizeof request, .max_new_tokens = max_new_tokens};
    forerun_round round = {.struct_size = sizeof round};
    size_t n_rounds = 0, n_tokens = 0;
    double seconds = 0;
    if (forerun_start(engine, prompt, n_prompt, &request, &error) != FORERUN_OK)
        return fail(&error);
    do {
        if (forerun_step(engine, &round, &error) != FORERUN_OK)
            return fail(&error);
        print_round(engine, &round);
        if (round.phase == FORERUN_DECODE) {
            n_rounds++;
            n_tokens += round.n_committed;
            seconds += 1e-9 * (double)(round.session_ns + round.loop_ns);
        }
    } while (round.finish == FORERUN_RUNNING);
    if (n_rounds > 0)
        fprintf(stderr, "\n%zu tokens in %zu rounds: %.2f a round, %.0f tokens/s\n", n_tokens, n_rounds,
                (double)n_tokens / (double)n_rounds, (double)n_tokens / seconds);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: %s BUNDLE LIBONNXRUNTIME MAX_NEW_TOKENS TOKEN...\n", argv[0]);
        return 2;
    }
    size_t n_prompt = (size_t)argc - 4;
    int64_t *prompt = malloc(n_prompt * sizeof *prompt);
    if (prompt == NULL)
        return 1;
    for (size_t i = 0; i < n_prompt; i++)
        prompt[i] = strtoll(argv[4 + i], NULL, 10);

    forerun_error error;
    forerun_engine *engine = NULL;
    forerun_options options = {.struct_size = sizeof options, .onnxruntime_library = argv[2]};
    int result;
    if (forerun_open(argv[1], &options, &engine, &error) != FORERUN_OK)
        result = fail(&error);
    else
        result = generate(engine, prompt, n_prompt, strtoll(argv[3], NULL, 10));
    forerun_close(engine);
    free(prompt);
    return result;
}
