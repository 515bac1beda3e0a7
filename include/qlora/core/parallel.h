// Loops over independent ranges on the machine's cores, for the rooms without torch.
#pragma once

#include <cstdint>
#include <functional>

namespace qlora {

// Threads that parallel_for uses, the caller among them: QLORA_THREADS or OMP_NUM_THREADS where set, else the cores
// this process may run on. At least 1.
int parallel_threads();
void set_parallel_threads(int threads);

// Calls body(begin, end) for ranges that cover [0, count) once, each but the last a multiple of `grain` long. Ranges
// run at the same time on one pool of threads; a call from within a body, or while another thread uses the pool, runs
// alone. Of several exceptions the one of the lowest range is thrown, after all ranges have ended.
void parallel_for(std::int64_t count, std::int64_t grain,
                  const std::function<void(std::int64_t begin, std::int64_t end)>& body);

}  // namespace qlora
