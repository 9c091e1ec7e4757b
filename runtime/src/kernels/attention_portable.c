/* Plain C in vectors of four, which every compiler has instructions for: no fused multiply and add. */
#define LANES 4
#define TILE 2
#define TARGET
#define MADD(a, b, c) ((a) * (b) + (c))

#include "attention_path.h"

static int usable(void) {
    return 1;
}

const fr_attention_path fr_attention_portable = PATH("portable");
