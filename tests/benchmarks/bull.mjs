// BullMQ as a peer: `node bull.mjs worker|enqueue HOST PORT PASSWORD DB [JOBS]`.
// It is installed outside the tree, so it is looked up from BULL_HOME.
import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';

const [role, host, port, password, db, jobs] = process.argv.slice(2);
const { Queue, Worker } = createRequire(process.env.BULL_HOME + '/package.json')('bullmq');
const connection = { host, port: +port, password, db: +db, maxRetriesPerRequest: null };
const payload = { text: 'x'.repeat(1000) };

function digest(value) {
  const content = JSON.stringify(value);
  return { length: content.length, digest: 'sha256:' + createHash('sha256').update(content).digest('hex') };
}

async function add(queue, count) {
  for (let left = count; left > 0; left -= 500) {
    await queue.addBulk(Array.from({ length: Math.min(left, 500) }, () => ({ name: 'echo', data: payload })));
  }
}

if (role === 'worker') {
  new Worker('bench', async (job) => digest(job.data), { connection, concurrency: 64 });
} else {
  const queue = new Queue('bench', { connection });
  await queue.waitUntilReady();
  if (role === 'enqueue') await add(queue, 500);
  const cpu = process.cpuUsage();
  const began = performance.now();
  await add(queue, +jobs);
  const seconds = (performance.now() - began) / 1000;
  const spent = process.cpuUsage(cpu);
  console.log(JSON.stringify({
    jobs_per_second: jobs / seconds,
    producer_us: (spent.user + spent.system) / jobs,
    seconds,
  }));
  await queue.close();
}
