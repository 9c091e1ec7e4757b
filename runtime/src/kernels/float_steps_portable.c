/* Plain C in vectors of four, which every compiler has instructions for; ARM runs it too. */
#define LANES 4
#define TARGET
#include "float_steps_path.h"

const fr_float_steps fr_float_steps_portable = {normalize, gate, add, recur};
