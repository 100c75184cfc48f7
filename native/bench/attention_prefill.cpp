// Prefill attention and the stores before it, one thread: 2,048 tokens in chunks of 512 over 30 layers of 9 query
// heads, 3 KV heads, head_dim 64. Operations counted: two multiply-adds for each visible key, dimension and query head.
#include "attention_common.h"

using namespace bench;

int main(int argc, char** argv) {
  const int32_t tokens = 2048, layers = 30, chunk = 512;
  for (Isa isa : isas(argc, argv)) {
    const AttentionKernels& kernels = attention_kernels(isa);
    for (KvType type : kv_types(argc, argv)) {
      Setup setup(type, layers, 9, 3, 64, 64, tokens);
      double attend = 0, store = 0;
      for (int32_t start = 0; start < tokens; start += chunk) {
        const std::vector<RowSlice> rows = {setup.slice(start, chunk)};
        AttentionPlan plan;
        plan.build(rows, setup.model.layers[0].attention, 64, 2);
        const int measured = 2;  // layers, of 30
        store += layers / measured * best_of(5, [&] {
          for (int32_t layer = 0; layer < measured; ++layer) {
            kernels.store(setup.call(layer, start), rows[0], 0, chunk, 0, 3);
          }
        });
        attend += layers / measured * best_of(isa == Isa::scalar ? 1 : 5, [&] {
          for (int32_t layer = 0; layer < measured; ++layer) {
            const AttentionCall call = setup.call(layer, start);
            plan.reset();
            for (int64_t i = 0; i < plan.units(); ++i) kernels.run(call, plan, i, setup.scratch.get());
          }
        });
      }
      const double flop = 4.0 * layers * 9 * 64 * tokens * (tokens + 1) / 2;
      std::printf("%-7s %-5s attention %7.1f ms %6.1f GFLOP/s   store %6.1f ms\n", isa_name(isa), kv_name(type),
                  attend * 1e3, flop / attend * 1e-9, store * 1e3);
    }
  }
}
